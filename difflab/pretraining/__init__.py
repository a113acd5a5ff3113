"""The bundled models from nothing."""
