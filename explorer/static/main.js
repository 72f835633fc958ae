/** The page: sets up the views and the choice of a model. */
import { getPage } from "./api.js";
import { refreshConvolution, startConvolutionView } from "./convolution_view.js";
import { byId, make } from "./dom.js";
import { startDrawView } from "./draw_view.js";
import { refreshLayers, startLayersView } from "./layers_view.js";
import { startOcclusion } from "./occlusion.js";
import { refreshRecord, startRecordView } from "./record_view.js";
import { session } from "./session.js";
import { refreshSoftmax, startSoftmaxView } from "./softmax_view.js";
import { startTabs } from "./tabs.js";
import { refreshUncertainty, startUncertaintyView } from "./uncertainty_view.js";
import { startUnit } from "./unit.js";

session.page = await getPage();
startDrawView();
startLayersView();
startUnit();
startOcclusion();
startConvolutionView();
startSoftmaxView();
startUncertaintyView();
startRecordView();
startTabs({
  layers: refreshLayers,
  convolution: () => {
    refreshConvolution();
    refreshSoftmax();
  },
  uncertainty: refreshUncertainty,
  record: refreshRecord,
});
session.addEventListener("model", () => {
  offerModels();
  for (const refresh of [refreshLayers, refreshConvolution, refreshSoftmax, refreshUncertainty, refreshRecord])
    refresh();
});
session.addEventListener("models", offerModels);
byId("model").addEventListener("change", (event) => {
  const [name, version] = event.target.value.split("/");
  session.choose({ name, version: Number(version) });
});
await session.start();

function offerModels() {
  const names = [...new Set(session.models.map((model) => model.name))];
  const options = names.flatMap((name) => {
    const versions = session.models.filter((model) => model.name === name);
    const byDefault = versions.find((model) => model.default);
    const others = versions.length > 1 ? versions : [];
    return [
      make("option", { value: `${name}/0` }, `${name}, default (${byDefault.version})`),
      ...others.map(({ version }) =>
        make("option", { value: `${name}/${version}` }, `${name}, version ${version}`),
      ),
    ];
  });
  const select = byId("model");
  select.replaceChildren(...options);
  const { name, version } = session.chosen;
  select.value = `${name}/${version}`;
  if (!select.value) select.value = `${name}/0`;
}
