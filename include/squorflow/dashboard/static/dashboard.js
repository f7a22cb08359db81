// The parts of the page that move. Each looks for what is its own and leaves the rest alone.
import { startActions } from "./actions.js";
import { startCharts } from "./charts.js";
import { startClocks } from "./clocks.js";
import { startFrame } from "./frame.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startLoading } from "./loading.js";
import { startSelection } from "./selection.js";

startFrame();
startClocks();
startCharts();
startSelection();
startActions();
startKeys();
startLive();
startLoading();
