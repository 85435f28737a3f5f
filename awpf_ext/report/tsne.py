"""t-SNE of embeddings, by scikit-learn (extra "tsne"): equal embeddings give equal maps."""

from __future__ import annotations

import torch
from torch import Tensor

PERPLEXITY = 30
ITERATIONS = 500  # the first 250 with early exaggeration
FEWEST = 10  # points


def tsne(x: Tensor) -> Tensor | None:
    """(n, 2) for (n, d); None if there are too few different points.

    ModuleNotFoundError without scikit-learn. One thread, because sums over several threads differ
    in the last digits, and because that is faster for a few hundred points.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(torch.unique(x, dim=0)) < FEWEST:
        return None
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    with threadpool_limits(limits=1):
        model = TSNE(
            perplexity=perplexity, init="pca", random_state=0, max_iter=ITERATIONS, n_jobs=1
        )
        places = torch.from_numpy(model.fit_transform(x.numpy())).float()
    return places if bool(places.isfinite().all()) else None
