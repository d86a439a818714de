"""Ways in: messages from sockets, brokers and serial ports, through one feeder."""
