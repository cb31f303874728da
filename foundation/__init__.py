"""What every service stands on: values, errors, storage and messaging ports with their adapters. It knows no service."""
