"""What a chat template may use. Only the process that renders it needs the library that it is for."""

MOST_SOURCE = 2**18  # characters of a template; the longest that are published have some 20,000
MOST_TEXT = 2**20  # characters of a rendering
RENDER_STEPS = 500_000  # lines of Python of one rendering; real templates take hundreds to thousands
COMPILE_STEPS = 500_000  # lines of Python to compile an empty template, and
COMPILE_STEPS_EACH = 250  # for each character of its source; real templates take some 70
MOST_MEMORY = 512 * 2**20  # bytes, on top of what the process has
MOST_CPU_S = 10  # processor time of compiling, and of each rendering
MOST_BITS = 4096  # of a number
