"""Metrics of embeddings: retrieval, clustering, class geometry."""
