"""What runs networks on a host: the runtimes below the device backends."""
