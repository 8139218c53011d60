"""The service: protocol (bytes to arrays and back), model and deployment, kept apart."""
