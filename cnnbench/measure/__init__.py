"""What is measured, and with what: time, memory, precision, the machine."""
