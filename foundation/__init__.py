"""What every service stands on: values, errors, ports of storage and messaging with their adapters."""
