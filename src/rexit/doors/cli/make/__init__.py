"""The commands that make a bundle, in the order of the flow."""
