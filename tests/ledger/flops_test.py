"""Walking a traced program: scopes, loops and branches."""
import jax
import jax.numpy as jnp
import pytest

from sparsejax.ledger import flops

W = jnp.ones((3, 5))


def scoped(index, x, w=W):
  with jax.named_scope(flops.scope_name(index)):
    return x @ w


def counted(function):
  return dict(flops.scoped_flops(jax.make_jaxpr(function)(jnp.ones((2, 3)))))


def test_products_outside_any_scope_are_not_counted():
  assert counted(lambda x: (x @ W, scoped(4, x))) == {4: 2 * 2 * 3 * 5}


def test_the_innermost_scope_wins():
  def nested(x):
    with jax.named_scope(flops.scope_name(1)):
      return scoped(2, x), x @ W
  assert counted(nested) == {1: 60, 2: 60}


def test_a_scope_around_a_jitted_function_reaches_inside_and_calls_add_up():
  product = jax.jit(lambda x: x @ W)

  def twice(x):
    with jax.named_scope(flops.scope_name(0)):
      y = product(x)
    with jax.named_scope(flops.scope_name(12)):
      return y + product(x) + product(x)
  assert counted(twice) == {0: 60, 12: 120}


def test_scans_multiply_and_branches_take_the_dearer():
  def loop(x):
    return jax.lax.scan(lambda c, _: (c, jax.lax.scan(
        lambda d, _: (d, scoped(0, d)), c, length=4)[1]), x, length=3)[1]
  assert counted(loop) == {0: 12 * 60}

  def branch(x):
    return jax.lax.cond(x.sum() > 0, lambda y: scoped(0, scoped(0, y), W.T),
                        lambda y: scoped(1, scoped(0, y), W.T), x)
  assert counted(branch) == {0: 120, 1: 60}


def test_a_loop_of_unknown_length_is_an_error_only_around_a_layer():
  def plain(x):
    return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x)
  assert counted(plain) == {}
  with pytest.raises(ValueError, match='inside `while`.*use nn.scan'):
    counted(lambda x: jax.lax.while_loop(lambda y: y.sum() < 9,
                                         lambda y: scoped(0, scoped(0, y), W.T), x))


def test_grouped_and_batched_convolutions():
  def vmapped(x):
    images, kernels = jnp.ones((7, 1, 2, 6)), jnp.ones((7, 4, 2, 3))         # 7 convolutions
    with jax.named_scope(flops.scope_name(0)):
      return x, jax.vmap(lambda i, k: jax.lax.conv(i, k, (1,), 'VALID'))(images, kernels)
  assert counted(vmapped) == {0: 2 * 7 * 4 * (4 * 2 * 3)}
