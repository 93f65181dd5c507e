"""The network side of a station for programs: HTTP in, JSON out."""
