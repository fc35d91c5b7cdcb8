"""Data on the move: `export` and `import` between any two databases, `backup` and `restore` of the embedded one."""
