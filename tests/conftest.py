"""Settings that all tests share."""

import signal

from hypothesis import settings

settings.register_profile("sinkserve", deadline=None)  # nothing here asserts time
settings.load_profile("sinkserve")

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
