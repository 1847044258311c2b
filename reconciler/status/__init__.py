"""What users and tools read: list, describe, get, conditions, health, graph, top."""
