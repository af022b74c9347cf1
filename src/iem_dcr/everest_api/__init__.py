"""Power meters on EVerest's stable MQTT API.

The entry point is `meter_api.MeterApi`, one for each meter. All of them share one `bus.Bus`.
"""
