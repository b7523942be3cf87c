"""Guides: representations that enter the net, each from a time on that is drawn per sample.

A guide is one member of REED's family of decompositions (arXiv 2507.08980, section 2). alpha(t) is
the density of the time t* at which the representation z is drawn, and A(t) = P(t* >= t). To
generate, integrate the velocity v(x_t) from 1 to t*, draw z ~ p(z | x_t*), and integrate v(x_t, z)
to 0. In training a sample at time t keeps its z with probability A(t), and sees a learned null
otherwise, so there is no extra pass.
"""
