#!lua flags=allow-cross-slot-keys
-- Put text before what a key holds. Items: key, text, most bytes that are kept; 1 for each that was written.
local first = tonumber(ARGV[1]) + 2
local answer = {}
for place = first, #ARGV, 3 do
  local key, text, most = ARGV[place], ARGV[place + 1], tonumber(ARGV[place + 2])
  local stored = redis.pcall('GET', key)
  if type(stored) == 'table' then
    answer[#answer + 1] = stored
  else
    local set = redis.pcall('SET', key, string.sub(text .. (stored or ''), 1, most))
    answer[#answer + 1] = set.err and set or 1
  end
end
return answer
