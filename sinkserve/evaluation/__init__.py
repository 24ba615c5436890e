"""The paper's measurements on a published engine, through the code that serves it."""
