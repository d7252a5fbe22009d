"""The MQTT side: our own listener in front of amqtt, and the plugin that decides who may do what."""
