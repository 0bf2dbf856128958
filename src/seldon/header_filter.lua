function envoy_on_request(handle)
  local h = handle:headers()
  local function blank(v) return v == nil or v == "" end
  if not (blank(h:get("seldon-model")) and blank(h:get("x-seldon-route"))) then return end
  local path = h:get(":path")
  local model = path:match("^/v2/models/([^/]*)")
  if model then
    h:add("seldon-model", model)
  elseif path:sub(1, 14) == "/v2/pipelines/" then
    h:add("seldon-model", path:match("^/v2/pipelines/([^/]*)/") .. ".pipeline")
  end
end
