"""The VQ split transformer (DCCT): device half, quantised boundary, cloud half. No Flower here."""
