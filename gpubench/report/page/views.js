// What stands beside the plot and follows its filter.

function updateViews(shown) {
  updateHeatmap(shown);
  updateKernels(shown);
  updateMemory(shown);
}
