"""Power meters on EVerest's stable MQTT API. One owner for each piece of state:

* `meter_api.MeterApi`, one for each meter, has the driver, the requests and the status, and lends them to the bus.
* `requests.Requests` has the running commands and the replies that wait for the broker. `replies.Replies` remembers
  what was asked and answered, so that nothing is carried out twice.
* `status_publisher.StatusPublisher` has the active errors, the last value and EVerest's heartbeat. They decide what
  is published unasked.
* `bus.Bus` is what all meters share: handlers, and messages that wait. `mqtt.MqttConnection` is the bus over a broker.
"""
