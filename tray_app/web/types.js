// @ts-check
/**
 * The engine's values as the page sees them; tray_app/engine/values.py and
 * tray_app/engine/runtime/values.py are the source.
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
 * @property {string | null} runtime_id
 * @property {Offload | null} offload
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
 * @property {string[]} steps what it goes through, where that is known beforehand
 * @property {number} step_number of them, the one that runs
 *
 * @typedef {{path: string, state: 'ok'|'missing'|'unreadable', model_count: number, is_home: boolean}} Folder
 * @typedef {{path: string, reason: string}} LeftOut
 * @typedef {{code: string, level: 'info'|'warning'|'error', message: string, remedy: string}} Notice
 * @typedef {{total_bytes: number, available_bytes: number, budget_bytes: number, models_bytes: number}} Memory
 * @typedef {{state: 'stopped'|'listening'|'blocked', host: string, port: number, base_url: string, requests_total: number, error: ErrorView | null, key_required: boolean}} GatewayStatus
 * @typedef {'cuda'|'rocm'|'vulkan'|'sycl'|'opencl'|'metal'|'cpu'} Backend
 *
 * @typedef {object} Gpu
 * @property {string} name
 * @property {string} vendor
 * @property {number | null} memory_bytes
 * @property {boolean | null} integrated
 * @property {string | null} driver
 * @property {string | null} compute_capability
 * @property {string | null} gfx_target
 * @property {string | null} bus_id
 * @property {boolean | null} vulkan
 *
 * @typedef {object} Hardware
 * @property {string} system
 * @property {string} arch
 * @property {string | null} cpu_name
 * @property {number | null} cpu_cores
 * @property {number | null} cpu_threads
 * @property {string[]} cpu_features
 * @property {number | null} memory_bytes
 * @property {Gpu[]} gpus
 * @property {string | null} cuda
 * @property {string | null} rocm
 * @property {string | null} vulkan
 * @property {boolean | null} level_zero
 * @property {boolean | null} opencl
 * @property {boolean | null} kfd
 * @property {string[]} problems
 * @property {number} read_at
 *
 * @typedef {{backend: string, usable: boolean, reason: string, gpus: string[]}} Rung
 *
 * @typedef {object} Proof
 * @property {boolean} ok
 * @property {number} proved_at
 * @property {string[]} devices
 * @property {number | null} layers_on_gpu
 * @property {number | null} layers
 * @property {number | null} load_s
 * @property {ErrorView | null} error
 * @property {string[]} warnings
 * @property {string[]} missing_libraries
 *
 * @typedef {object} Runtime
 * @property {string} id
 * @property {number | null} build
 * @property {string} backend
 * @property {string} server_path
 * @property {string} origin
 * @property {string} version_text
 * @property {string[]} devices
 * @property {Proof | null} proof
 * @property {number | null} size_bytes
 * @property {number | null} installed_at
 * @property {string | null} made_from
 *
 * @typedef {{runtime_id: string, model_id: string, error: ErrorView, back_to: string, at: number}} RolledBack
 *
 * @typedef {object} Update
 * @property {number} build
 * @property {string} tag
 * @property {string} backend
 * @property {number | null} published_at
 * @property {string} notes Markdown, untrusted
 * @property {string} url
 * @property {number | null} size_bytes
 * @property {boolean} told
 *
 * @typedef {{requested: number | null, actual: number, total: number}} Offload
 *
 * @typedef {object} RuntimeStatus
 * @property {'searching'|'missing'|'building'|'ready'|'failed'} state
 * @property {Runtime | null} active
 * @property {string | null} job_id
 * @property {ErrorView | null} error
 * @property {LeftOut[]} rejected
 * @property {Runtime[]} installed
 * @property {string | null} previous_id
 * @property {boolean} on_trial
 * @property {RolledBack | null} rolled_back
 * @property {Hardware | null} hardware
 * @property {Rung[]} ladder
 * @property {string[]} stepped_down backends tried in vain for the active one, and why
 * @property {Update | null} update
 *
 * What `available_runtimes` answers.
 * @typedef {object} Choice
 * @property {string} backend
 * @property {string} variant
 * @property {number} size_bytes
 * @property {boolean} usable
 * @property {string} reason
 * @property {string} runtime_id
 * @property {boolean} installed
 *
 * @typedef {{tag: string, build: number, published_at: number | null, notes: string, url: string, choices: Choice[]}} Release
 * @typedef {{backend: string, usable: boolean, reason: string, missing: string[], install_command: string}} Buildable
 * @typedef {{checked_at: number | null, error: ErrorView | null, releases: Release[], buildable: Buildable[], source_build: number}} Available
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
 * @property {number | null} prompt_tokens_per_s
 * @property {number | null} cached_tokens
 *
 * @typedef {{start_at: number, requests: number, generated_tokens: number, tokens_per_s: number | null}} UsageBucket
 *
 * @typedef {object} ModelUsage
 * @property {string} model_id
 * @property {number} requests
 * @property {number} failed
 * @property {number} last_at
 * @property {number} prompt_tokens
 * @property {number} cached_tokens
 * @property {number} generated_tokens
 * @property {number | null} longest_tokens
 * @property {number | null} tokens_per_s
 * @property {number | null} prompt_tokens_per_s
 * @property {number | null} first_token_median_s
 * @property {number | null} first_token_p95_s
 * @property {UsageBucket[]} buckets
 *
 * @typedef {{from_at: number, until_at: number, bucket_s: number, kept_from_at: number | null, models: ModelUsage[]}} Usage
 * @typedef {{id: number, busy: boolean, context_length: number, context_used: number}} Slot
 *
 * @typedef {object} Download
 * @property {string} id
 * @property {string} reference
 * @property {string} title
 * @property {'queued'|'running'|'paused'|'waiting'|'done'|'failed'|'cancelled'} state
 * @property {string} step
 * @property {number} done_bytes
 * @property {number | null} total_bytes
 * @property {number | null} rate_bytes_s
 * @property {number | null} eta_s
 * @property {number} created_at
 * @property {number | null} finished_at
 * @property {number | null} retry_at
 * @property {string | null} model_path
 * @property {ErrorView | null} error
 * @property {string[]} warnings
 * @property {number} order
 *
 * @typedef {object} Badge
 * @property {'gpu'|'partly'|'processor'|'tight'|'too_large'|'unknown'} fits
 * @property {string} sentence
 * @property {number} context_length
 * @property {number | null} weights_bytes
 * @property {number | null} kv_cache_bytes
 * @property {number | null} compute_bytes
 * @property {number | null} total_bytes
 *
 * @typedef {object} Preview
 * @property {string} reference
 * @property {string} title
 * @property {'huggingface'|'ollama'|'url'} hub
 * @property {string | null} page
 * @property {{path: string, size_bytes: number | null, role: string}[]} files
 * @property {number | null} total_bytes
 * @property {number} free_bytes
 * @property {string | null} license
 * @property {string[]} warnings
 * @property {Badge | null} badge
 * @property {string | null} model_id
 *
 * @typedef {object} Offer
 * @property {string} reference
 * @property {string} label
 * @property {string | null} quantization
 * @property {string} about
 * @property {string[]} files
 * @property {number | null} size_bytes
 * @property {number | null} projector_bytes
 * @property {boolean} complete
 * @property {Badge} badge
 * @property {boolean} recommended
 * @property {string | null} model_id
 *
 * @typedef {object} RepoDetails
 * @property {string} id
 * @property {string} revision
 * @property {string} page
 * @property {string | null} license
 * @property {string | null} gated
 * @property {Offer[]} offers
 * @property {string[]} left_out
 * @property {string | null} architecture
 * @property {number | null} parameters
 * @property {number | null} context_length
 * @property {boolean | null} has_chat_template
 * @property {ErrorView | null} problem
 *
 * @typedef {object} HubModel
 * @property {string} id
 * @property {string | null} author
 * @property {number | null} likes
 * @property {number | null} downloads
 * @property {number | null} created_at
 * @property {number | null} modified_at
 * @property {string | null} gated
 * @property {boolean} private
 * @property {string | null} pipeline
 * @property {string | null} license
 * @property {string[]} tags
 * @property {string | null} architecture
 * @property {number | null} parameters
 * @property {number | null} context_length
 *
 * @typedef {object} Suggestion
 * @property {string} reference
 * @property {string} title
 * @property {string} about
 * @property {number} size_bytes
 * @property {number | null} parameters
 * @property {string | null} license
 * @property {string[]} tags
 * @property {Badge} badge
 * @property {string | null} model_id
 *
 * @typedef {{suggestions: Suggestion[], ollama_names: string[], quantizations: Record<string, string>}} Suggested
 * @typedef {{label: string, about: string, size_bytes: number | null, bits_per_weight: number | null, fallbacks: number, needs_imatrix: boolean, model_id: string | null}} Target
 * @typedef {{model_id: string, quantization: string | null, size_bytes: number, warning: string, free_bytes: number, targets: Target[]}} Targets
 * @typedef {{ready: boolean, installing: boolean, size_bytes: number, install_bytes: number, python: string | null, problem: string, remedy: string}} Converter
 * @typedef {{id: string, title: string, source: string, steps: string[], step_number: number, error: ErrorView | null, size_bytes: number,
 *   updated_at: number, job_id: string | null}} Unfinished
 * @typedef {{unfinished: Unfinished[], converter: Converter}} Conversions
 * @typedef {{tokens_per_s: number, stddev_per_s: number | null}} BenchSpeed
 * @typedef {{threads: number | null, gpu_layers: number | null, kv_cache_type: string | null, flash_attention: string | null,
 *   batch_size: number | null, ubatch_size: number | null}} BenchSettings
 * @typedef {{id: number, model_id: string, model_size_bytes: number, measured_at: number, runtime_id: string, backend: string,
 *   build: number | null, device: string, prompt_tokens: number, generated_tokens: number, repetitions: number,
 *   prompt: BenchSpeed | null, generation: BenchSpeed | null, settings: BenchSettings, in_memory: string[], left_out: string[],
 *   busy_percent: number | null}} BenchRun
 * @typedef {{run: BenchRun, prompt_ratio: number | null, generation_ratio: number | null, changes: string[]}} Against
 * @typedef {{newest: BenchRun, previous: Against | null, runtimes: Against[]}} ModelBench
 * @typedef {{runs: BenchRun[], models: ModelBench[], running: {job_id: string, model_id: string} | null}} BenchHistory
 * @typedef {{sentence: string, perplexity: number, reference_perplexity: number, reference: string}} Quality
 *
 * @typedef {object} ConvertPlan
 * @property {string} source
 * @property {'folder'|'hub'} place
 * @property {string} name
 * @property {string} title
 * @property {string} problem
 * @property {string} remedy
 * @property {string[]} warnings
 * @property {string | null} architecture
 * @property {number | null} parameters
 * @property {number | null} context_length
 * @property {string | null} tokenizer
 * @property {boolean | null} has_chat_template
 * @property {boolean} vision
 * @property {boolean} lora
 * @property {string | null} base
 * @property {number} original_bytes
 * @property {number} download_bytes
 * @property {number | null} full_bytes
 * @property {number} free_bytes
 * @property {Target[]} targets
 * @property {Converter} converter
 * @property {number | null} convert_s
 * @property {number | null} quantize_s_per_gb
 * @property {string | null} unfinished
 * @property {string | null} license
 * @property {string | null} page
 *
 * @typedef {{source: string, keychain: string | null, problem: string}} HubAccount
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
 * @property {Download[]} downloads
 * @property {Memory} memory
 * @property {Notice[]} notices
 * @property {Record<string, any>} settings
 * @property {RequestRecord | null} last_request
 * @property {import('./views/app-update-card.js').AppUpdate | undefined} app_update
 */
export {};

/**
 * @typedef {object} ModelMemory in bytes, all devices together
 * @property {number} context_wished
 * @property {number} context_length
 * @property {number | null} gpu_layers
 * @property {number} weights_bytes
 * @property {number} kv_cache_bytes
 * @property {number} compute_bytes
 * @property {number} beside_bytes
 * @property {number} total_bytes
 * @property {number} budget_bytes
 * @property {boolean} measured
 */

/**
 * @typedef {object} Sharing
 * @property {boolean} on
 * @property {boolean} secured by TLS
 * @property {{interface: string, url: string, code: string[]}[]} addresses `code`: its QR code, "1" is dark
 * @property {{name: string, ending: string, created_at: number}[]} keys
 * @property {{name: string, key: string} | null} new_key told once
 * @property {string[]} key_code the QR code of it
 */
