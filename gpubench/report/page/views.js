// What stands beside the plot and follows its filter.

function updateViews(shown) {
  updateHeatmap(shown);
  updateKernels(shown);
  updateMemory(shown);
}

// On paper nothing waits for a click: every cell that is not ok is there.
addEventListener("beforeprint", () => document.querySelector("#failed > p button:not([hidden])")?.click());
