"""What the study's page says above its table."""

ABOUT = r"""
The paper has theorems and no experiments. Here each theorem is a number that can be measured, and fail. "derived"
marks what follows from the paper but is not in it; "extension" what the theory does not cover.

## The model and its theorems

One layer, one head: $\Phi = v^\top X^\top \mathrm{softmax}(X K Q^\top z)$ with a fixed head $v$, loss
$\frac1n \sum_i e^{-y_i \Phi_i}$, gradient flow on $(K, Q)$ (or on $W = K Q^\top$, or on diagonal factors). In a
sample one token is optimal, and all others share one lower score. The margin of $W$ is the smallest
$(x_{opt} - x_l)^\top W z$; directions are compared at equal margin, so "nuclear ratio" is $\|W / \mu\|_*$ over the
least nuclear norm with margin 1: at least 1, and 1 for a bias to that norm. The least norms come from solvers whose
answers are certified by a dual (relative gap at most 1e-6, else refused).

| theorem | as a claim |
|---|---|
| Lemma A.1: $\beta = \omega^2 \sinh(B\varphi)$ and conserved $\xi_k^2 - \xi_q^2$ | equal to rounding along the flow |
| $K^\top K - Q^\top Q$ is conserved | drift at most 1e-8 of $\|K\|^2$ |
| Theorem 4.1: diagonal factors tend to the l1 max-margin solution | l1 ratio at margin 10000, and its rates |
| Lemma 5.1: alignment is kept | off-diagonal mass at most 1e-6 up to margin 1000 |
| Theorem 5.1: $(K, Q)$ tends to the nuclear max-margin solution | nuclear ratio at margins 100 and 1000 |
| Assumption 3 and $d_e \ge d$ | what happens without them |

The data of theorem 5.1 cannot tell the nuclear norm from the Frobenius norm: one and the same diagonal matrix is
optimal for both (measured here as "cannot separate the norms"). The norms are told apart on Gaussian data outside
the theorem, where the merged $W$ goes to the Frobenius and $(K, Q)$ to the nuclear solution.

## How it is measured

Weights of the constraints are formed from logarithms relative to the largest, so nothing underflows at any margin.
Clocks: time (LSODA), arc length (DOP853, with the log of time beside it), dual mass (Radau, diagonal factors), and
normalised gradient descent for the many seeds; `benchmarks/attention_spectra.py` compares them. Seeds are 0, 1, 2, ...
unless a note says otherwise; each seed draws the data, and 10000 + seed the start.

## What the theory leaves open

No rate is proved; the measured rates are 1/ln for the certificate and 1/ln^2 for the norm, so at any margin that a
real training reaches only the order of the two ratios is to be seen, not their limits. The limit's existence is
assumed. Nothing is said about other optimisers: normalised gradient descent shares the nuclear bias, Muon has the
spectral norm's, sign descent neither. Adam, run without its epsilon, keeps a nuclear ratio well above 1 up to the
margin in the table; its limit stays open. For several heads and queries, a trained head, more classes and finite
rates no max-margin problem is known to be the limit, so the table compares effective ranks: $(K, Q)$ stays of lower
rank than the merged $W$ in every setting tried.
"""
