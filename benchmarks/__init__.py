"""Benchmarks of numpyro_sumo: ``python -m benchmarks.<name>`` writes ``results/<name>/report.md``.

- ``funnel``: learned samplers beside NUTS on the funnel; ``funnel.variants``: one change at a time.
- ``posterior``: learned samplers beside NUTS on seven posteriors.
- ``density``: latent-variable models trained on bounds and on unbiased estimates of log p(x);
  ``density.variants``: what training on noisy estimates takes.
- ``evidence``: bias and variance of each estimator of log p(x) where log p(x) is known.
- ``gradients``: variance of the doubly reparameterised and of the standard gradient.
- ``defaults``: which options a loss should have by default.
- ``speed``: time, compilation and memory of a training step.
"""
