"""The data that ship inside the package; README.md says where each file comes from."""
