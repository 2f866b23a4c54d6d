"""The card for machines: Hub metadata, evaluation results, CycloneDX, fields of two frameworks."""
