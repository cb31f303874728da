-- Applies the HTTP status a service asks for (x-http-status: 201 or 202) to transcoded answers.
-- The transcoder alone always answers 200. gRPC answers, errors and any other value keep their status.
-- The filter stands before the transcoder, so it sees the answer after the transcoder made it JSON.

local ALLOWED = { ["201"] = true, ["202"] = true }

function envoy_on_response(handle)
  local headers = handle:headers()
  local asked = headers:get("x-http-status")
  if asked == nil then
    return
  end
  headers:remove("x-http-status")
  local content_type = headers:get("content-type") or ""
  if ALLOWED[asked] and headers:get(":status") == "200" and content_type:sub(1, 16) == "application/json" then
    headers:replace(":status", asked)
  end
end
