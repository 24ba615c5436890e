"""`/v1/chat/completions`: the client sends the whole conversation each time."""
