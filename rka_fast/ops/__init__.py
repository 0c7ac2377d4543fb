"""The operator: api (validate, choose), library (schema, autograd), backends (why not?)."""
