"""How a service lives in its process: settings, shared resources, signals."""
