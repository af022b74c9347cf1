"""A power meter behind EVerest's stable MQTT API: one meter's side of it, and the broker between.

Its way in is `meter_api.MeterApi`, one for every meter; all of them share one `bus.Bus`.
"""
