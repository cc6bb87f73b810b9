"""From interactions to a bundle: `rexit index` builds catalogs, `rexit export` cuts models. The only home of torch."""
