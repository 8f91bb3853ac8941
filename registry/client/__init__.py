"""The library: what `import registry` leads to."""
