"""The operator in readable PyTorch: any float dtype, any device. Every backend is tested on it."""
