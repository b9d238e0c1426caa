// Silences the SDK. Imported before it, because the SDK binds its log functions while it loads.

import { logger } from "matrix-js-sdk/lib/logger.js";

logger.setLevel("silent");
logger.getChild("[MatrixRTCSessionManager]").setLevel("silent");
