/** Errors of the client. */

import type { components } from "./schema.js";

export type Problem = components["schemas"]["Problem"];
export type Generation = components["schemas"]["GenerationResponse"];

/** An error response. `code` is a code of the API's documentation, `problem` the whole answer (RFC 9457). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly problem?: Problem,
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
    this.name = "ApiError";
  }

  /** The error of a response; a page of a proxy has the code `http_error`. */
  static async from(response: Response): Promise<ApiError> {
    const problem = (await response.json().catch(() => undefined)) as Problem | undefined;
    const after = Number(response.headers.get("retry-after") ?? Number.NaN);
    return new ApiError(
      response.status,
      problem?.error?.code ?? "http_error",
      problem?.detail ?? `the service returned HTTP status ${response.status}`,
      problem?.error === undefined ? undefined : problem,
      Number.isFinite(after) ? after : undefined,
    );
  }
}

/** A generation failed or was cancelled; `generation` is its last state. */
export class GenerationFailed extends Error {
  constructor(readonly generation: Generation) {
    super(`${generation.id}: ${generation.error?.message ?? "the generation was cancelled"}`);
    this.name = "GenerationFailed";
  }
}
