"""Messages of our own `protos/`, compiled when the package is built."""
