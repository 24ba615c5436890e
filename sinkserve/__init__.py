"""What a client installs: the generated stubs (``sinkserve.engine.v1`` and so on), the SDK and the command line."""
