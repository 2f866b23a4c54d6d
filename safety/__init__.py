"""Safety measures of text-to-image models: filters that block, marks that tell where from."""
