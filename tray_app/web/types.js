// @ts-check
/**
 * The engine's values as the page sees them (tray_app/engine/values.py is the source).
 * Types only; nothing here runs.
 *
 * @typedef {{code: string, message: string, remedy: string}} ErrorView
 *
 * @typedef {object} Model
 * @property {string} id
 * @property {string} name
 * @property {string | null} publisher
 * @property {string} path
 * @property {string} folder
 * @property {number} size_bytes
 * @property {number} shard_count
 * @property {number} modified_at
 * @property {string | null} architecture
 * @property {number | null} parameter_count
 * @property {string | null} size_label
 * @property {string | null} quantization
 * @property {number | null} context_length
 * @property {number | null} kv_bytes_per_token
 * @property {boolean | null} has_chat_template
 * @property {'chat' | 'completion' | 'embedding' | 'unknown'} kind
 * @property {string | null} mmproj_path
 * @property {boolean} available
 * @property {boolean} details_known
 * @property {string | null} license
 *
 * @typedef {object} ModelStatus
 * @property {string} model_id
 * @property {'unloaded'|'waiting'|'loading'|'ready'|'stopping'|'backoff'|'failed'} state
 * @property {number} in_flight
 * @property {number} waiting
 * @property {number | null} pid
 * @property {number | null} loaded_at
 * @property {number | null} last_used_at
 * @property {number | null} load_s
 * @property {number | null} memory_bytes
 * @property {number | null} context_length
 * @property {number | null} retry_at
 * @property {ErrorView | null} error
 *
 * @typedef {object} Job
 * @property {string} id
 * @property {string} kind
 * @property {string} title
 * @property {'queued'|'running'|'done'|'failed'|'cancelled'|'interrupted'} state
 * @property {string} step
 * @property {number} done
 * @property {number | null} total
 * @property {string} unit
 * @property {number | null} rate_per_s
 * @property {number | null} eta_s
 * @property {number} created_at
 * @property {number | null} finished_at
 * @property {string | null} log_name
 * @property {ErrorView | null} error
 *
 * @typedef {{path: string, state: 'ok'|'missing'|'unreadable', model_count: number, is_home: boolean}} Folder
 * @typedef {{path: string, reason: string}} LeftOut
 * @typedef {{code: string, level: 'info'|'warning'|'error', message: string, remedy: string}} Notice
 * @typedef {{total_bytes: number, available_bytes: number, budget_bytes: number, models_bytes: number}} Memory
 * @typedef {{state: 'stopped'|'listening'|'blocked', host: string, port: number, base_url: string, requests_total: number, error: ErrorView | null}} GatewayStatus
 * @typedef {{id: string, build: number | null, backend: string, server_path: string, origin: string, version_text: string, devices: string[]}} Runtime
 * @typedef {{state: 'searching'|'missing'|'building'|'ready'|'failed', active: Runtime | null, job_id: string | null, error: ErrorView | null, rejected?: LeftOut[]}} RuntimeStatus
 *
 * @typedef {object} RequestRecord
 * @property {string} model_id
 * @property {string} path
 * @property {number} status
 * @property {number} started_at
 * @property {number} wait_s
 * @property {number | null} first_token_s
 * @property {number} duration_s
 * @property {number | null} prompt_tokens
 * @property {number | null} generated_tokens
 * @property {number | null} tokens_per_s
 *
 * @typedef {object} Snapshot
 * @property {number} seq
 * @property {string} version
 * @property {number} pid
 * @property {number} started_at
 * @property {string} home
 * @property {string} mode
 * @property {'stopped'|'starting'|'ready'|'busy'|'error'} server_state
 * @property {string} status_text
 * @property {string | null} active_model_id
 * @property {string[]} recent_model_ids
 * @property {GatewayStatus} gateway
 * @property {RuntimeStatus} runtime
 * @property {Model[]} models
 * @property {ModelStatus[]} statuses
 * @property {Folder[]} folders
 * @property {LeftOut[]} left_out
 * @property {boolean} scanning
 * @property {Job[]} jobs
 * @property {Memory} memory
 * @property {Notice[]} notices
 * @property {Record<string, any>} settings
 * @property {RequestRecord | null} last_request
 */
export {};
