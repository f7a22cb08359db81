"""What the OpenAPI document shows: one whole request or answer for each shape, of one product on its way.

They are put into the finished document, since FastAPI drops every null on the way there. A test checks that each fits.
"""

from __future__ import annotations

import json
from typing import Any

WORKFLOW_ID = "0193a8c4-7a10-7cc3-9d1e-6f2b8a4c5e01"
OPERATION_ID = "0193a8d0-11c2-7e0a-8f6b-2d9c4e7a1b02"
PRODUCT_ID = "0193a8c5-0b3e-7d51-a2c4-91e07f3d6a03"
TRANSITION_ID = "0193a8c6-5d27-7f98-b1a6-4c8e2f0d7b04"
TIME = "2026-11-25T08:15:00.250000Z"

ITEM = {
    "url": "https://shop.example/p/english-muffins",
    "name": "English Muffins",
    "brand": "Bonbon S.A.",
    "images": ["https://shop.example/i/english-muffins.jpg"],
    "extracted_data": {"pack_size": "250 g", "ingredients_text": "Wheat flour, water, yeast, salt."},
}

STATUS: dict[str, Any] = {
    "workflow_id": WORKFLOW_ID,
    "current_state": "processing",
    "current_stage": "enrichment",
    "retry_count": 0,
    "max_retries": 3,
    "priority": 5,
    "product_id": PRODUCT_ID,
    "product_name": "English Muffins",
    "locked_by": "airflow:airflow/product_workflow/scheduled__2026-11-25T08:15:00+00:00",
    "lock_duration": 3.2,
    "queued_at": "2026-11-25T08:14:12.100000Z",
    "processing_started_at": TIME,
    "completed_at": None,
    "next_retry_at": None,
    "last_error": None,
    "allowed_transitions": ["cancelled", "completed", "failed", "suspended", "waiting"],
    "metadata": {"source_url": "https://shop.example/p/english-muffins"},
}

STATUS_PAGE = {"items": [STATUS], "total": 15, "total_is_capped": False, "next_cursor": WORKFLOW_ID}

STEP: dict[str, Any] = {
    "transition_id": TRANSITION_ID,
    "workflow_id": WORKFLOW_ID,
    "sequence": 3,
    "from_state": "queued",
    "to_state": "processing",
    "stage": "discovery",
    "reason": "discovery began",
    "actor": "airflow:product_workflow/scheduled__2026-11-25T08:15:00+00:00/product.discovery[4]#1",
    "created_at": TIME,
}

LIVE_STEP = {**STEP, "product_name": "English Muffins"}

STREAM = f"event: transition\nid: {TRANSITION_ID}\ndata: {json.dumps(LIVE_STEP)}\n\n"

HISTORY = {
    "workflow_id": WORKFLOW_ID,
    "transitions": [
        {
            **{name: value for name, value in STEP.items() if name != "workflow_id"},
            "metadata": {},
            "duration_in_state": 48.15,
        }
    ],
    "next_cursor": None,
}

WHY = {"reason": "Suspicious content detected"}

METRICS = {
    "time_range": "24h",
    "state_durations": {"processing": {"count": 3, "avg": 48.7, "p50": 48.9, "p95": 52.0}},
    "stage_durations": {"enrichment": {"count": 3, "avg": 12.9, "p50": 12.3, "p95": 14.4}},
    "error_breakdown": {"RateLimitError": 5, "NetworkError": 2},
    "retry_counts": {WORKFLOW_ID: 2},
    "throughput_per_hour": 142.0,
    "ai": {"requests": 9, "tokens": 4012, "cost": 0.004},
}

DASHBOARD = {
    "active_workflows": 45,
    "state_distribution": {
        "created": 0,
        "queued": 120,
        "processing": 45,
        "waiting": 0,
        "completed": 3420,
        "failed": 15,
        "retrying": 0,
        "suspended": 2,
        "cancelled": 7,
    },
    "avg_processing_time": 47.3,
    "error_rate": 0.43,
    "throughput": 142.0,
    "oldest_queued_seconds": 12.0,
    "stuck": 0,
    "breakers": [
        {
            "dependency": "images:img.shop.example",
            "state": "open",
            "failures": 5,
            "opened_at": TIME,
            "probe_at": "2026-11-25T08:16:00.250000Z",
            "last_error": "NetworkError: the connection was reset",
        }
    ],
    "quotas": [
        {
            "dependency": "gemini",
            "quota": "requests/day",
            "used": 1200,
            "allowed": 1500,
            "share": 0.8,
            "exhausted_until": None,
        }
    ],
}

SEARCH_PAGE = {
    "items": [
        {
            "product_id": PRODUCT_ID,
            "name": "English Muffins",
            "brand": "Bonbon",
            "category": "Bread",
            "grade": "A",
            "overall": 85.0,
            "allergens": ["gluten"],
            "rank": 0.607927,
            "snippet": [{"text": "English ", "hit": False}, {"text": "Muffins", "hit": True}],
        }
    ],
    "facets": {"grade": {"A": 1}, "brand": {"Bonbon": 1}, "category": {"Bread": 1}, "allergen": {"gluten": 1}},
    "next_cursor": None,
}

NEW_WORKFLOWS = {"items": [ITEM], "priority": 5, "force": False}

CREATED_WORKFLOWS = {
    "created": 1,
    "duplicates": 0,
    "refused": 1,
    "items": [
        {"outcome": "created", "workflow_id": WORKFLOW_ID, "reason": None},
        {"outcome": "refused", "workflow_id": None, "reason": "There is no name."},
    ],
}

NEW_BULK_OPERATION = {
    "filter": {"state": ["failed"], "error_category": "transient"},
    "reason": "the shop is back",
    "dry_run": False,
}

BULK_COUNT = {"dry_run": True, "action": "retry", "total": 1200}

BULK_OPERATION = {
    "operation_id": OPERATION_ID,
    "action": "retry",
    "filter": {"state": ["failed"], "stage": None, "brand": None, "error_category": "transient", "text": None},
    "reason": "the shop is back",
    "actor": "api:admin",
    "status": "running",
    "total": 1200,
    "succeeded": 499,
    "refused": 1,
    "pending": 700,
    "created_at": TIME,
    "finished_at": None,
}

BULK_PAGE = {"items": [BULK_OPERATION], "next_cursor": None}

REFUSED_PAGE = {
    "items": [
        {
            "workflow_id": WORKFLOW_ID,
            "message": f"workflow {WORKFLOW_ID} is cancelled, so retry is not possible here: only what is failed",
        }
    ],
    "next_cursor": None,
}

EXAMPLES = {
    "Status": STATUS,
    "StatusPage": STATUS_PAGE,
    "History": HISTORY,
    "Why": WHY,
    "Metrics": METRICS,
    "Dashboard": DASHBOARD,
    "SearchPage": SEARCH_PAGE,
    "NewWorkflows": NEW_WORKFLOWS,
    "CreatedWorkflows": CREATED_WORKFLOWS,
    "NewBulkOperation": NEW_BULK_OPERATION,
    "BulkCount": BULK_COUNT,
    "BulkOperation": BULK_OPERATION,
    "BulkPage": BULK_PAGE,
    "RefusedPage": REFUSED_PAGE,
}
"""The example of each shape, by its name in the document."""
