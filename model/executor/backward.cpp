#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/rows.h"
#include "model/executor/block.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// The backward pass of one run; `dx_` is d loss / d residual stream, [rows of the current block, d].
class Backward {
 public:
  Backward(Context& context, const Model& model, const Activations& kept, const Parameters<float>* gradients)
      : context_(context),
        geometry_(kept.geometry),
        sites_(context, kept.plan, kept.geometry),
        pass_{context, model.config(), model.parameters(), gradients, kept, sites_} {}

  RowGradients run(ConstView logit_gradients) {
    start_joined();
    unembed(logit_gradients);
    for (int64_t layer = geometry_.layers() - 1; layer >= 0; --layer) {
      leave(layer + 1);
      if (geometry_.rows(layer) > 0) BackwardBlock(pass_, layer, dx_).run();
    }
    leave(0);
    embed();
    return std::move(joined_);
  }

 private:
  void start_joined();
  void unembed(ConstView dlogits);
  void leave(int64_t layer);
  void embed();

  Context& context_;
  const Geometry& geometry_;
  GradientSites sites_;
  BackwardPass pass_;
  RowGradients joined_;
  Tensor dx_;
};

void Backward::start_joined() {
  int64_t rows = 0;
  for (int64_t s = 0; s < geometry_.sequences(); ++s) {
    joined_.first_row.push_back(rows);
    rows += geometry_.sequence_rows(s);
  }
  joined_.joined = Tensor(context_, rows, pass_.config.width);
}

void Backward::unembed(ConstView dlogits) {
  const Parameters<const float>& p = pass_.parameters;
  const Parameters<float>* g = pass_.gradients;
  const ConstView x = pass_.kept.final_rows.view();
  const float epsilon = static_cast<float>(pass_.config.epsilon);
  require<ShapeError>(dlogits.rows == x.rows && dlogits.cols == pass_.config.vocabulary,
                      "logit gradients are [{}, {}], expected [{}, {}]", dlogits.rows, dlogits.cols, x.rows,
                      pass_.config.vocabulary);
  Tensor dh(context_, x.rows, x.cols);
  linear_backward(context_, dlogits, WeightView::out_in(p.unembedding), dh.view(), Write::assign);
  if (g) {
    Tensor h(context_, x.rows, x.cols);
    normalise(context_, pass_.config.norm, x, p.final_norm_gain, p.final_norm_bias, epsilon, h.view(), {});
    gemm(context_, Transpose::yes, dlogits, Transpose::no, h.view(), g->unembedding, Write::accumulate);
    if (!g->unembedding_bias.empty()) add_column_sums(context_, dlogits, g->unembedding_bias);
  }
  Tensor dwanted(context_, x.rows, x.cols);
  normalise_backward(context_, pass_.config.norm, x, p.final_norm_gain, pass_.kept.final_statistics.view(), dh.view(),
                     dwanted.view(), Write::assign, g ? g->final_norm_gain : View{}, g ? g->final_norm_bias : View{});
  dx_ = Tensor::zeros(context_, std::max<int64_t>(1, geometry_.buffer_rows()), x.cols);
  scatter_rows(context_, dwanted.view(), pass_.kept.wanted_rows, dx_.view(), Write::assign);
}

/// Hands out the gradients of the rows that joined at this layer.
void Backward::leave(int64_t layer) {
  const bool shortened = geometry_.tail() && layer == geometry_.layers();
  std::vector<RowDestination> leaving;
  for (const int64_t s : geometry_.joining(layer))
    for (int64_t row = 0; row < geometry_.sequence_rows(s); ++row)
      leaving.push_back({geometry_.first_row(s, shortened) + row, joined_.joined.row(joined_.first_row[s] + row)});
  if (!leaving.empty()) tap_rows(context_, dx_.view(), {context_, std::span<const RowDestination>(leaving)});
  sites_.leave(layer, dx_.view());
}

void Backward::embed() {
  const int64_t rows = geometry_.rows(0);
  if (rows == 0) return;
  const View dx = dx_.rows_slice(0, rows);
  if (pass_.gradients && !pass_.gradients->position_embedding.empty())
    embed_rows_backward(context_, pass_.kept.position_ids, dx, pass_.gradients->position_embedding);
  sites_.visit(Site::embed, 0, dx);
  if (pass_.gradients) embed_rows_backward(context_, pass_.kept.token_ids, dx, pass_.gradients->token_embedding);
}

}  // namespace

RowGradients run_backward(Context& context, const Model& model, const Activations& kept, ConstView logit_gradients,
                          const Parameters<float>* parameters) {
  return Backward(context, model, kept, parameters).run(logit_gradients);
}

}  // namespace loci
