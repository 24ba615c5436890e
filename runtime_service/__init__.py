"""Loads engines from the store and serves conversations: load -> session -> token stream."""
