#!lua flags=allow-cross-slot-keys
-- End a rebuild (rule 3). Common: capacity, ttl in seconds. Items: key, token, floor, ids (descending, by commas).
-- 1 committed; 0 and nothing changed unless the rebuild of the token is still going on.
local capacity = tonumber(ARGV[2])

local function greater(a, b)
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local function commit(key, token, floor, found)
  local last = redis.call('LINDEX', key, -1)
  local mark = '!' .. token .. ':'
  if not last or string.sub(last, 1, #mark) ~= mark then
    return 0
  end
  -- So many may have been pushed meanwhile that the floor rose.
  local risen = string.sub(last, #mark + 1)
  if greater(risen, floor) then
    floor = risen
  end
  local pushed = redis.call('LRANGE', key, 0, -2)
  local merged = {}
  local at = 1
  local function add(id)
    if greater(id, floor) then
      merged[#merged + 1] = id
    end
  end
  for id in string.gmatch(found, '%d+') do
    while pushed[at] and greater(pushed[at], id) do
      add(pushed[at])
      at = at + 1
    end
    add(id)
    if pushed[at] == id then
      at = at + 1
    end
  end
  for rest = at, #pushed do
    add(pushed[rest])
  end
  if #merged > capacity then
    floor = merged[capacity + 1]
  end
  redis.call('DEL', key)
  local kept = math.min(#merged, capacity)
  for start = 1, kept, 500 do
    redis.call('RPUSH', key, unpack(merged, start, math.min(start + 499, kept)))
  end
  redis.call('RPUSH', key, floor)
  redis.call('EXPIRE', key, ARGV[3])
  return 1
end

local answer = {}
for place = 4, #ARGV, 4 do
  local there = redis.pcall('EXISTS', ARGV[place])
  if type(there) == 'table' then
    answer[#answer + 1] = there
  else
    answer[#answer + 1] = commit(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3])
  end
end
return answer
