"""Names in the folder of an export."""

GRAPHS = {"onnx": "model.onnx", "aoti": "model.pt2"}
"""File of the graph by format."""
FORMAT = 1
"""Of the folder; the number changes with what others would have to read differently."""
FACTS, ITEMS, VECTORS = "export.json", "items.json", "vectors.npy"
