"""Names in the folder of an export."""

GRAPHS = {"onnx": "model.onnx", "aoti": "model.pt2"}
"""File of the graph by format."""
FACTS, ITEMS, VECTORS = "export.json", "items.json", "vectors.npy"
