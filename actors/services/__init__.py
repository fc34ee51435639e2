"""gRPC services: message to domain, engine call, domain to message."""
