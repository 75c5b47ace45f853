"""Gradients of the log-posterior of a Cobaya model, for samplers such as HMC; and how to give a component gradients.

Cobaya has no interface for gradients. :class:`LogPosterior` computes the log-posterior of n points at once with torch.
For this, every theory and likelihood that depends on a sampled parameter needs one more method. The emulator, the
tables and the likelihoods of this package have it. Your own component needs

- a theory: ``forward_torch(params, products)``, which does for n points what ``calculate`` does for one. It returns a
  dictionary {product: value}. A value can be anything that theory and likelihood agree on, for example a tensor
  (n, n_bins). Derived parameters that other components require are tensors (n,).
- a likelihood: ``logp_torch(params, products)``, which returns n log-likelihoods as a tensor (n,).

The arguments are

- ``params``: the input parameters of the component by name. A parameter that varies is a float64 tensor (n,), one that
  is constant a float.
- ``products``: what ``forward_torch`` of the theories that this component requires returned, by product.

Use torch operations in double precision. Row i of a result may depend on row i of the input only. Where ``calculate``
would return False (zero likelihood), raise :class:`RejectedRows` with the rejected rows. The points are then evaluated
again without these rows.

Two more methods of a theory are optional:

- ``inequalities()`` returns linear inequalities that hold wherever ``calculate`` does not return False, as a list of
  ({parameter: coefficient}, limit): the sum of the parameters, each times its coefficient, is at most the limit. The
  sampler then uses coordinates in which no trajectory leaves this region. Parameters of the theory that are linear
  functions of sampled ones count as well.
- ``prepare(params)`` may compute many points at once for which ``calculate`` will be called one after the other.
  ``params`` are arrays (n,) by name.

For example, a theory that predicts a straight line, and a likelihood that compares it with data:

>>> import numpy as np
>>> import torch
>>> from cobaya.likelihood import Likelihood
>>> from cobaya.model import get_model
>>> from cobaya.theory import Theory
>>> from iaemu_cobaya.gradients import LogPosterior, RejectedRows
>>> X, DATA, ERROR = np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.9, 2.1]), 0.1
>>> class Line(Theory):
...     params = {"intercept": None, "slope": None}
...
...     def get_can_provide(self):
...         return ["line"]
...
...     def calculate(self, state, want_derived=True, **params):
...         if params["slope"] < 0:
...             return False  # zero likelihood
...         state["line"] = params["intercept"] + params["slope"] * X
...
...     def get_line(self):
...         return self.current_state["line"]
...
...     def forward_torch(self, params, products):
...         intercept, slope = params["intercept"], params["slope"]  # tensors (n,)
...         if bool((slope < 0).any()):
...             raise RejectedRows(slope < 0)
...         return {"line": intercept[:, None] + slope[:, None] * torch.as_tensor(X)}  # (n, 3)
>>> class Data(Likelihood):
...     def get_requirements(self):
...         return {"line": None}
...
...     def logp(self, **params):
...         return -0.5 * float((((DATA - self.provider.get_line()) / ERROR) ** 2).sum())
...
...     def logp_torch(self, params, products):
...         return -0.5 * ((torch.as_tensor(DATA) - products["line"]) / ERROR).square().sum(dim=1)
>>> prior = {"prior": {"min": -2, "max": 2}, "ref": {"dist": "norm", "loc": 0.5, "scale": 0.1}}
>>> model = get_model(
...     {
...         "theory": {"line": {"external": Line}},
...         "likelihood": {"data": {"external": Data}},
...         "params": {"intercept": prior, "slope": prior},
...     }
... )

``check`` compares values and gradient with Cobaya's own log-posterior, term by term, and raises an error if they
differ. The sampler ``iaemu_cobaya.HMC`` does this at the start of every run.

>>> log_posterior = LogPosterior(model)
>>> log_posterior.check()
>>> x = torch.tensor([[0.0, 1.0], [0.2, -0.5]], dtype=torch.float64, requires_grad=True)
>>> values = log_posterior(x)  # one row for each point, with columns in the order of log_posterior.names
>>> (gradient,) = torch.autograd.grad(values.sum(), x)
>>> log_posterior.names, [round(value, 3) for value in values.tolist()]
(('intercept', 'slope'), [-4.273, -inf])
>>> gradient.round(decimals=6).tolist()
[[10.0, 10.0], [0.0, 0.0]]

A component that depends on no sampled parameter needs none of this: Cobaya evaluates it once. Priors, external priors
and parameters that are functions of others (``lambda``) work as they are. If their functions do not accept tensors,
they are differentiated numerically, and the log says so.
"""

from iaemu_cobaya.gradients.log_posterior import LogPosterior
from iaemu_cobaya.gradients.torch_functions import RejectedRows

__all__ = ["LogPosterior", "RejectedRows"]
