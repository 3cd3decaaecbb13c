"""Cores that adapt or search at test time.

Each method is a subpackage or module, imported by name: `from jaxtta import lpn`. Importing
`jaxtta` itself costs nothing.
"""
