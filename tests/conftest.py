"""Settings that all tests share."""

from hypothesis import settings

settings.register_profile("sinkserve", deadline=None)  # nothing here asserts time
settings.load_profile("sinkserve")
